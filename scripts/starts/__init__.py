"""What `trine new` writes: mechanisms that run, with the names `start` and `Start` in place of those of a file."""
