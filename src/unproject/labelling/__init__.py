"""From raw video to labelled clips."""
