"""What can go wrong, one test for each row of the catalogue in README.md, against a server that holds the truth."""
