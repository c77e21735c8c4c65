"""The synthetic world: users, items, tastes and times from one seed, with a known best answer."""
