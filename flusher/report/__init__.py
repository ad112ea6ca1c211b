"""What a person asks: the status, the page, the audit."""
