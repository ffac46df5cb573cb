"""What all HTTP resources share: the site, refusals, and who may do what."""
