-- Whether a lease has not run out; one that was renewed in the future was so before the clock was set back, and is free.
local function is_live(ends, renewed, now)
  return tonumber(ends) > now and (tonumber(renewed) or 0) <= now
end

