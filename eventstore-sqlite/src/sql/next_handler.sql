-- Returns the handler after ?1 that has noted a delivery.
SELECT handler FROM eventbus_deliveries WHERE handler > ?1 ORDER BY handler LIMIT 1
