"""The roof: the command line, the settings, and everything wired into one process. The only room that may import all others.

`cli.py` (also `python -m freshet`) has one command per thing a person does, `settings.py` every setting, `clock.py` the clock.
`engine.py` is log, state, archive and the loop over one data folder; `view.py` what look-ups read of a state; `service.py`
adds vectors and the live model; `server.py` puts HTTP in front. `access.py` reaches a folder directly or through its server;
`producing.py`, `verifying.py` and `doctor.py` are commands.

Learning: `training.py` starts a child and promotes what it hands back, `learn.py` is that child, `walk.py` replays the past,
`evidence.py` asks candidates about it, `features.py` gathers what the item tower reads, `version_files.py` names the files.

The demo: `demo_command.py`, `demo.py`, `prequential.py` (test, then learn), `report.py` with `charts.py` and
`templates/demo.html`. Its data: `recbole.py` fetches MovieLens-100K, `readers/` reads files of any known layout, and
`world.py` with `world_clock`, `world_entities`, `world_images`, `world_nature`, `world_poison` and `world_words` makes one up.

Not here: anything that could live in a room below without importing another room.
"""
