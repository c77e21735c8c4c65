"""Events in, fresh state out."""
