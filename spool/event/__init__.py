"""What an event is: built once at capture, and frozen."""
