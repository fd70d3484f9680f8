"""How a camera fit is solved: its problem and starts, Adam, Levenberg-Marquardt, and both on many images at once."""
