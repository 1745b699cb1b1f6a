"""Many runs: the jobs of studies and of curricula, and the one scheduler that runs them on all cores."""
