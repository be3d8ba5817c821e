-- Checks that the server runs scripts.
return 1
