"""Wiring only: which stage follows which, what a turn's state holds, and the session around it."""
