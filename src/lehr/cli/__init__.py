"""The command line: parsing and printing only, one file per verb. What is heavy is imported when a verb runs."""
