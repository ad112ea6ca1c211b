"""What keeps events from being taken or delivered, and how to mend it: `examine` gives findings."""
