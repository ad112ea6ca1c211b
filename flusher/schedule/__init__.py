"""Regular runs by cron, systemd or launchd. `planner` looks at, installs and removes them for one app and home."""
