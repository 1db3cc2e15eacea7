"""Runs of real processes over real sockets, under faults drawn from a seed.

:mod:`schedules` says what goes wrong, :mod:`federation` who takes part, :mod:`running` runs one schedule and judges it.
"""
