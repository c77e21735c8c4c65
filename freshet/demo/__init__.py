"""The demo: history, stream, replay; what the model is compared with; the report; its data."""
