"""The recall policy and the controllers that move it; pure, so that an auditor replays every decision."""
