"""The cron job: by cron, systemd or launchd."""
