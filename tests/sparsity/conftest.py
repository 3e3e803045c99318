"""No deadlines for Hypothesis here: how long an example takes says more about the machine's other users."""

from hypothesis import settings

settings.register_profile("without deadline", deadline=None)
settings.load_profile("without deadline")
