{
  "algorithm": "ed25519",
  "key_id": "2f950f8e88fb071a",
  "signature": "sKXcSIEL6O5Dq4fJaMY9cIBQn7tAUJqR91oPx6we8fmamnmSQ4xJiglmEQyjwrawdPhHAm2XQl9WAA/MQX5nDQ=="
}
