-- Says that scripts run.
return 1
