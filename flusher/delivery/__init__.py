"""From the queue to PostHog: gather, send, judge the answer, settle."""
