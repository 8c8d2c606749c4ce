"""Other frameworks beside this one: scripts that run without fedrecall, and ``make.py``, which makes their homes."""
