"""What the backends share: a step while it is written down, and the parts of rules that know no machine."""
