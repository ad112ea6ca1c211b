"""One `command` event for each command, however it ends."""
