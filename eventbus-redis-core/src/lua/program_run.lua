
local outcome
while at < #ARGV and not outcome do outcome = steps[take()]() end
-- a user without the right leaves the backups, which the next program replaces
for _, key in ipairs(backups) do redis.pcall('UNLINK', key) end
return outcome or done
