"""The roof: the command line, the settings, and everything wired into processes. The only room that may import all others.

Here lie what everything needs: `settings.py` every setting, `clock.py` the clock, `cluster.py` the services of the cluster form,
`engine.py` log, state, archive and the loop over one data folder, `view.py` and `features.py` what look-ups and the item tower read
of a state, `service.py` vectors and the live model, `server.py` the embedded all-in-one behind HTTP, `listening.py` any process's
HTTP side, `access.py` how a folder is reached: directly or through its server.

Folders: `commands/` the command line; `operators/` what operators ask and do; `processes/` the processes of the cluster form but the
worker, which is `stream/app.py`'s; `learning/` a training and the past it is judged on; `demo/` the demo and its report; `readers/`
files of any known layout; `world/` the synthetic world.

Not here: anything that could live in a room below without importing another room.
"""
