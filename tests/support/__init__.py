"""What the tests share: a local PostHog, processes, faults."""
