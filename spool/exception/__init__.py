"""What is reported of an error. Nothing here imports another folder of this package.

- `outcome`: how a command ended, and which errors only leave the program;
- `report`: PostHog's `$exception` from an error, which errors are expected, and that each is reported once;
- `redaction`: how much of an error's text may leave the machine, and what was typed on the command line.

The first is loaded with every command, the other two only when something went wrong: import from the modules.
"""
