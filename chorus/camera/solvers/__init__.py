"""How a camera fit is solved: its problem and starts, Adam, Levenberg-Marquardt, and the search from several starts."""
