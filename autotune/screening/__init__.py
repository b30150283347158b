"""What a candidate's machine code says of its speed, without a GPU: numbers, a bound on its time, kept or dropped."""
