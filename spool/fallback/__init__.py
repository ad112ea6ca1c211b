"""What happens when the queue can't be had: files aside, notes of losses."""
