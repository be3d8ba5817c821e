
local outcome
while at < #ARGV and not outcome do outcome = steps[take()]() end
-- the writes are made: a user without the right to remove the backups leaves them
for _, key in ipairs(backups) do
  if error_of(redis.pcall('UNLINK', key)) then redis.pcall('DEL', key) end
end
return outcome or done
