"""Does a stage work here? Makes it as a run does, gives it one picture, and says what came (``chorus stages --check``)."""
