"""The parts of `live_feeds.py` and `soak.py`: one question a module, and what they share."""
