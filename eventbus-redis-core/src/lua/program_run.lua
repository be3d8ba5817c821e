
local outcome
while at < #ARGV and not outcome do outcome = steps[take()]() end
for _, key in ipairs(spare) do redis.call('UNLINK', key) end
return outcome or done
