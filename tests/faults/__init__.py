"""What a replica set does to the service, on real mongods: one test for each fault of FAULTS 3.

T1  resumable read error
      test_watch_errors: an_error_that_can_be_resumed_costs_no_listing
T2  fatal read errors, 13 among them
      test_watch_errors:
      a_fatal_error_costs_one_listing_and_no_change
      rights_that_are_refused_are_told_and_waited_for
T3  the server's own label
      test_watch_errors: a_label_decides_about_resuming_not_only_the_code
T4  connections that break
      test_watch_errors: connections_that_break_again_and_again_cost_one_listing
T5  slow server
      test_watch_errors: a_server_that_is_slow_once_costs_nothing
T6  election
      test_elections: an_election_loses_no_change_and_lists_nothing
T7  crash
      test_elections: the_death_of_the_primary_loses_no_change
T8  freeze
      test_elections: a_frozen_primary_is_left_within_seconds
T9  majority stall, list/watch hole
      test_elections: what_the_majority_does_not_have_yet_is_neither_done_nor_lost
T10  partition, lost answers
      test_claims
T11  half-open connections
      test_silence
T12  oplog rolled over
      test_collections: a_stream_that_fell_behind_the_oplog_is_replaced_by_a_listing
T13  drop, rename, rename-over, dropDatabase
      test_collections: the_end_of_the_collection_is_followed_and_so_is_the_next_one
T14  poisoned bytes
      test_collections: a_document_that_cannot_be_decoded_stops_no_other
T15  16 MB
      test_large
T16  standalone, no rights, revoked
      test_start; a standalone: integration/test_database_trouble
T17  token or time of the future
      test_collections: the_first_change_after_a_listing_of_a_quiet_server_is_seen
T18  cancelled reads
      test_threads
T19  starvation by streams
      test_threads: a_service_has_one_stream_open
T20  double fire
      test_double_fire
T21  convergence
      not here: scripts/chaos

Not in FAULTS: test_deletions, a fault that T20 brought to light.

Does not apply: patched tokens of T17, since no token is kept beyond a stream (what remains is the
time at which a stream begins); the majority-lag metric of T9, which the service does not export.
"""
