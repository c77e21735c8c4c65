"""What operators ask and do, over a folder and over a cluster: doctor, lag, verify, rebuild, losses, dead letters again."""
