"""Candidates built, proved and timed, in a process that may die without taking the search along."""
