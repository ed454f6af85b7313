-- What version 1 of the schema created, as SQLite kept it.
CREATE TABLE node (
    "key" VARCHAR NOT NULL,
    value VARCHAR NOT NULL,
    PRIMARY KEY ("key")
);
CREATE TABLE studies (
    study_instance_uid VARCHAR NOT NULL,
    patient_digest VARCHAR NOT NULL,
    accession_number VARCHAR NOT NULL,
    study_at BIGINT,
    state VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    generation INTEGER NOT NULL,
    ordered_priority VARCHAR NOT NULL,
    priority VARCHAR NOT NULL,
    priority_reason VARCHAR NOT NULL,
    urgency INTEGER NOT NULL,
    is_archive BOOLEAN NOT NULL,
    attempts INTEGER NOT NULL,
    due_at BIGINT NOT NULL,
    claim_token VARCHAR NOT NULL,
    claimed_by VARCHAR NOT NULL,
    received_at BIGINT NOT NULL,
    finished_at BIGINT,
    findings JSON NOT NULL,
    remarks JSON NOT NULL,
    PRIMARY KEY (study_instance_uid),
    CONSTRAINT study_state_is_known CHECK (state in ('receiving', 'queued', 'scoring', 'done', 'not_analysed', 'not_applicable', 'failed')),
    CONSTRAINT priority_is_known CHECK (priority in ('routine', 'urgent', 'asap', 'stat'))
);
CREATE INDEX studies_by_due ON studies (state, due_at);
CREATE TABLE series (
    series_instance_uid VARCHAR NOT NULL,
    started_at BIGINT NOT NULL,
    PRIMARY KEY (series_instance_uid)
);
CREATE TABLE transitions (
    id INTEGER NOT NULL,
    subject VARCHAR NOT NULL,
    state VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    moved_by VARCHAR NOT NULL,
    moved_at BIGINT NOT NULL,
    PRIMARY KEY (id)
);
CREATE TABLE roles (
    role VARCHAR NOT NULL,
    pid INTEGER NOT NULL,
    started_at BIGINT NOT NULL,
    heartbeat_at BIGINT NOT NULL,
    counters JSON NOT NULL,
    PRIMARY KEY (role)
);
CREATE TABLE instances (
    id INTEGER NOT NULL,
    study_instance_uid VARCHAR NOT NULL,
    series_instance_uid VARCHAR NOT NULL,
    sop_instance_uid VARCHAR NOT NULL,
    sop_class_uid VARCHAR NOT NULL,
    transfer_syntax_uid VARCHAR NOT NULL,
    digest VARCHAR NOT NULL,
    path VARCHAR NOT NULL,
    header JSON NOT NULL,
    calling_ae_title VARCHAR NOT NULL,
    received_at BIGINT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (study_instance_uid, sop_instance_uid, digest),
    FOREIGN KEY(study_instance_uid) REFERENCES studies (study_instance_uid)
);
CREATE INDEX instances_by_sop ON instances (sop_instance_uid);
CREATE TABLE results (
    id INTEGER NOT NULL,
    study_instance_uid VARCHAR NOT NULL,
    generation INTEGER NOT NULL,
    model VARCHAR NOT NULL,
    model_digest VARCHAR NOT NULL,
    report_series_instance_uid VARCHAR NOT NULL,
    report_sop_class_uid VARCHAR NOT NULL,
    report_sop_instance_uid VARCHAR NOT NULL,
    recorded_at BIGINT NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(study_instance_uid) REFERENCES studies (study_instance_uid)
);
CREATE INDEX results_by_study ON results (study_instance_uid);
CREATE TABLE objects (
    sop_instance_uid VARCHAR NOT NULL,
    sop_class_uid VARCHAR NOT NULL,
    series_instance_uid VARCHAR NOT NULL,
    transfer_syntax_uid VARCHAR NOT NULL,
    study_instance_uid VARCHAR NOT NULL,
    generation INTEGER NOT NULL,
    kind VARCHAR NOT NULL,
    label VARCHAR NOT NULL,
    digest VARCHAR NOT NULL,
    recorded_at BIGINT NOT NULL,
    PRIMARY KEY (sop_instance_uid),
    FOREIGN KEY(study_instance_uid) REFERENCES studies (study_instance_uid)
);
CREATE INDEX objects_by_study ON objects (study_instance_uid, generation);
CREATE TABLE deliveries (
    id INTEGER NOT NULL,
    sop_instance_uid VARCHAR NOT NULL,
    study_instance_uid VARCHAR NOT NULL,
    destination VARCHAR NOT NULL,
    state VARCHAR NOT NULL,
    urgency INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    last_status VARCHAR NOT NULL,
    next_attempt_at BIGINT,
    claimed_by VARCHAR NOT NULL,
    delivered_at BIGINT,
    PRIMARY KEY (id),
    UNIQUE (sop_instance_uid, destination),
    CONSTRAINT delivery_state_is_known CHECK (state in ('waiting', 'delivered', 'parked')),
    FOREIGN KEY(sop_instance_uid) REFERENCES objects (sop_instance_uid)
);
CREATE INDEX deliveries_by_study ON deliveries (study_instance_uid);
CREATE INDEX deliveries_by_due ON deliveries (state, next_attempt_at);

INSERT INTO node VALUES ('schema_version', '1');
INSERT INTO studies VALUES
    ('1.2.3', 'p1', 'ACC1', 1795430000000000, 'done', '', 1, 'routine', 'urgent', 'Pneumonia present',
     1, 0, 1, 1795435205000000, '', '', 1795435200000000, 1795435206000000,
     '[{"label": "Pneumonia", "probability": 0.9, "operating_point": 0.6, "undetermined_from": 0.3, "interval": null, "spread": null, "sop_instance_uid": "1.2.3.1", "absence_withheld": false}]',
     '[]'),
    ('1.2.4', 'p2', 'ACC2', NULL, 'receiving', '', 1, 'stat', 'stat', 'as ordered',
     3, 0, 0, 1795435205000000, '', '', 1795435200000000, NULL, '[]', '[]');
INSERT INTO instances VALUES
    (7, '1.2.3', '1.2.3.9', '1.2.3.1', '1.2.840.10008.5.1.4.1.1.1.1', '1.2.840.10008.1.2.1',
     'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', '',
     '{"path": "", "digest": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "study_instance_uid": "1.2.3", "series_instance_uid": "1.2.3.9", "sop_instance_uid": "1.2.3.1", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1", "transfer_syntax_uid": "1.2.840.10008.1.2.1", "modality": "DX", "body_part": "CHEST", "view_position": "AP", "photometric_interpretation": "MONOCHROME2", "presentation_intent": "FOR PRESENTATION", "patient_age_years": 4.0, "rows": 512, "columns": 512, "number_of_frames": 1, "has_pixel_data": true}',
     'MODALITY', 1795435200000000);
INSERT INTO objects VALUES
    ('2.25.1', '1.2.840.10008.5.1.4.1.1.88.34', '2.25.9', '1.2.840.10008.1.2.1', '1.2.3', 1, 'report', '',
     'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', 1795435206000000);
INSERT INTO results VALUES
    (1, '1.2.3', 1, 'chest', 'sha256:0', '2.25.9', '1.2.840.10008.5.1.4.1.1.88.34', '2.25.1', 1795435206000000);
INSERT INTO deliveries VALUES
    (5, '2.25.1', '1.2.3', 'pacs', 'waiting', 1, 0, '', 1795435206000000, '', NULL);
INSERT INTO series VALUES ('2.25.9', 1795435206000000);
INSERT INTO transitions VALUES (1, '1.2.3', 'receiving', '', 'receive', 1795435200000000);
