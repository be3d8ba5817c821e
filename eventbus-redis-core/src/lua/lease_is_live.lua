-- Returns true if a lease has not expired. A renewal time in the future means that the clock was set back since: such a
-- lease is free.
local function is_live(ends, renewed, now)
  return tonumber(ends) > now and (tonumber(renewed) or 0) <= now
end

