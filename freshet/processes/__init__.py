"""The processes of the cluster form that answer, refresh and train, and what keeps each up to date."""
