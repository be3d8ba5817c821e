-- Renews a consumer's claim on entries that are still pending on it.
-- KEYS  stream   ARGV  group, consumer, the number of ids whose claim is only checked, id ...
-- Replies {lost ids: claimed or finished by a different consumer; free ids: not pending, and on no consumer, as the
-- entry was deleted or a recreated group has yet to read it}.
local stream, group, me, first_renewed = KEYS[1], ARGV[1], ARGV[2], 4 + tonumber(ARGV[3])
local own, lost, free = { 'XCLAIM', stream, group, me, 0 }, {}, {}
for i = 4, #ARGV do
  local id = ARGV[i]
  if #redis.call('XPENDING', stream, group, id, id, 1, me) == 1 then
    if i >= first_renewed then own[#own + 1] = id end
  elseif #redis.call('XRANGE', stream, id, id) == 1 and not is_unread(stream, group, id) then
    lost[#lost + 1] = id
  else
    free[#free + 1] = id
  end
end
if #own > 5 then
  own[#own + 1] = 'JUSTID'
  redis.call(unpack(own))
end
return { lost, free }
