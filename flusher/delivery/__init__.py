"""From the queue to PostHog: `drain` sends and settles what waits; `backoff` and `state` say when to try again."""
