"""PostHog's `$exception`: an error, told without what is the person's."""
