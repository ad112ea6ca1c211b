"""What becomes of an error. Nothing here needs the disk or another room.

- `outcome`: how a command ended, and which errors only lead out of the program;
- `report`: PostHog's `$exception` from an error, which errors are expected, and that each is reported once;
- `redaction`: what may leave the machine of an error's text, and what was typed on the command line.

The first is loaded with every command, the other two only when something went wrong: import from the modules.
"""
