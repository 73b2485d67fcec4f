"""The data line beside datatrove and data-juicer: the same operations on the same corpus with planted truth."""
