"""A script for each study, run by its name; what several use stands in `shared/`."""
