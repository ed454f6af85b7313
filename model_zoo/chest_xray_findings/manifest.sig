{
  "algorithm": "ed25519",
  "key_id": "2f950f8e88fb071a",
  "signature": "vU8sMl4XIoD9h6LojSqKoN+hQkJMs7zluvbwTCuIfnmrHr1/GrTvDAZWndWJ20QygbDJd1NylTnScd4xwMXZAw=="
}
