"""The command line: one file a command, which parses, calls the room that does the work, and prints."""
