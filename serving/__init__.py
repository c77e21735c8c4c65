"""Answers for applications and for operators."""
