"""Devices reached over TVM's RPC: connections to servers, and supervised servers on this machine."""
