"""One training, from what is due to what becomes of its candidate; a past that is walked through to judge it."""
